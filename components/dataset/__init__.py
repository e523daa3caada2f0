"""The dataset artifact: images as TFRecords. Ingest writes it, and all later steps read it."""
