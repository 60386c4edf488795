"""Precision as a rewrite of the ONNX model: TensorRT builds strongly typed networks, so types in the model decide.

`rewriting.plan` looks at a model, on sample inputs where there are any, and says what the rewrite needs to know;
`rewriting.rewrite` makes the model that one engine builds. docs/precision.md has the rule of what stays in float32.
"""
