"""The core decides: plain functions and values, without clock, socket, thread or event loop."""
