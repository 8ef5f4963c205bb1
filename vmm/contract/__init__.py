"""Host side: may this be written? The judge of what a guest staged; it reads and never writes."""
