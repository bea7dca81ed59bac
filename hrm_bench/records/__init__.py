"""The record of a cell: its schema, and how it is written and read."""
