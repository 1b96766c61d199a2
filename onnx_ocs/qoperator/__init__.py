"""Files in the QOperator format: layers that compute with integers themselves, recognised and converted to QDQ."""
