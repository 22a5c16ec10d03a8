"""The speed benchmark: MambaOut of this project against timm's, behind tools/benchmark.py."""
