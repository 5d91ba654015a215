"""Bitrate, quality and the anchors. All of it runs in the trusted process, which holds the original."""
