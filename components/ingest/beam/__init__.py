"""The Beam pipeline of ingest, and the runners it runs on."""
