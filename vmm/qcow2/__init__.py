"""Host side: what the host itself reads of the format: headers, within bounds."""
