"""Below HTTP requests: sockets, connections and the bounds on every byte."""
