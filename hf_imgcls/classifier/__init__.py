"""What answers a picture: decoding, preprocessing, loading, runtimes. No dataset, no Trainer."""
