"""Host side: many images and other processes: batches, workers, a confined child."""

MARGIN = 30.0
"""Seconds that a child has for all but its guest: its start, the locks, the commit."""
PATIENCE = 2.0
"""Seconds that a child or worker has for what it began once it is to end."""
