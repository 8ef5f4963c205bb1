"""Host side: what every room may use: errors, refusals, records, escaping, C types."""
