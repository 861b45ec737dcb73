"""What belongs to one device: loading, verification, recalibration, drift, audits, suspension."""
