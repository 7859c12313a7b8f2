"""The demo: one schedule of requests over a replayed 4G uplink, served by Sponge and then by fixed sizes.

`session` runs it on a `backend`; `workload` fits the requests to the machine; `recording` turns samples and records
into series and figures; `page` and `report` show the same document, live and afterwards. Server, operator and load
generator are the product's own.
"""
