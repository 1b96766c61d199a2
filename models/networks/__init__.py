"""Float networks: trained here, or made from packages."""
