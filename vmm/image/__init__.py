"""Host side: the only code that touches the image file: it reads, locks, stages, commits."""
