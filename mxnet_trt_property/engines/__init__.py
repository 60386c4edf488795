"""The libraries that run subgraphs; see `registry` for what one must offer."""
