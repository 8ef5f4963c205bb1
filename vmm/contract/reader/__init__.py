"""Host side: the judge's own reader: follows an image's pointers to its tables, within budgets."""
