"""What tests lean on: real servers (``servers``) and a proxy that cuts and delays (``proxy``)."""
