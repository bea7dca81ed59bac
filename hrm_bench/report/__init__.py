"""Tables, plots and pages of records. Nothing here trains or reads anything but records and published figures."""
