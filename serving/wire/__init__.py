"""The two encodings of requests, JSON and TensorProto, and the errors that travel with them."""
