"""One pass per file; ``base`` defines what a pass is, ``registry`` finds passes by name."""
