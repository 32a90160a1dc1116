"""The Open Inference Protocol v2: bytes to arrays and back. Nothing here knows of HTTP.

datatypes   the protocol's names of element types
tensors     one tensor of a request: JSON data or a section of bytes, checked against its shape before memory is taken
request     a request's body
response    a response's body
metadata    what is said of the server and of a model
schemas     the same in the words of OpenAPI
"""
