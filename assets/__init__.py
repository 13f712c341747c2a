"""The catalogue: an asset reads, calls one function or one SQL file, and returns."""
