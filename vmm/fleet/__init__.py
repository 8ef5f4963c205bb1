"""Host side: many images and other processes: batches, workers, a confined child."""
