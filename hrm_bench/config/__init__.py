"""The config of a cell: its schema, its composition and its identity."""
