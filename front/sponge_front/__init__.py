"""The front of a service with several pods: chooses the pod of each request, for Envoy or a gateway that asks for it.

A proxy carries the requests and asks the picker here (`ext_proc`) where each should go. The picker follows the pods
(`pods`, `endpoint_slices`), reads the load of each (`load_reader`), and asks a rule of the core (`picker`). Nothing
depends on the picker alone: `envoy_config` makes a proxy that goes on by itself, in turn over the pods it knows.
"""
