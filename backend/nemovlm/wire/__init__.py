"""The protocols of remote engines, without sockets: requests are built, replies and errors are read."""
