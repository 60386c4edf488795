"""The documents: their samples are run, and the messages that they quote are those of the code."""
