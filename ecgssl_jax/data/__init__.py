"""Raw recordings in, masked batches out. The only user of TensorFlow."""
