"""Published versions, the champion and the record of decisions."""
