"""An order-support desk: a real environment, an imperfect production agent, and its telemetry.

`environment.SupportDesk` is the environment, `agent.run_scripted` the agent, and `production` runs the agent and emits
OpenTelemetry. Start with README.md.
"""
