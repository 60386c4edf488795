"""Built engines on disk: the file, the folder, what a key is made of, and the way from a model to a program."""
