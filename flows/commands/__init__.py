"""What the longer `evocodec` commands do; `flows.cli` declares their options."""
