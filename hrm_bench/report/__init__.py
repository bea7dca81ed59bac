"""What the records say, as tables. Nothing here trains, and nothing is read but records and the published figures."""
