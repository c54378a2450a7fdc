"""What differs between transformers 4.57 and 5.x."""
