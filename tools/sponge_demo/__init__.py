"""The demo: one schedule of requests over a replayed 4G uplink, served by Sponge and then by static sizes.

`session` runs it, on a `backend`; `recording` turns what was seen into series and figures; `page` and `report` show the
same document, live and afterwards. The server, the operator and the load generator are the product's own.
"""
