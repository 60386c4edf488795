"""Tests; `harness` compares MXNet with the package."""
