"""The customer service of an energy provider: a second example with its environment, production agent and telemetry.

Contracts, meters, invoices and tariffs. `environment.EnergyService` is the environment, `agent.run_scripted` the agent,
and `production` runs the agent and emits OpenTelemetry. Start with environment.py.
"""
