"""Host side: judges a repair, all of which follows from what the tables refer to."""
