"""One SQL file per table it makes, named for it; readable in any DuckDB client."""
