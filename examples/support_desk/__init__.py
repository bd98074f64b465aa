"""An order-support desk: a real environment, an imperfect production agent, and its telemetry.

Read README.md first; `environment.SupportDesk` is the environment, `agent.run_scripted` the agent,
`production` the run that emits OpenTelemetry.
"""
