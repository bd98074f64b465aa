-- grain: one tool
-- key: tool
-- meaning: how a tool behaved in production: how often it was called and failed, how (error_classes counts
-- each class, argument_keys the calls that passed each key; both are JSON objects), and how long it took
-- (quantiles are times that occurred).
WITH profiled AS (
    SELECT
        tool,
        count(*) AS calls,
        CAST(sum(CASE WHEN is_error THEN 1 ELSE 0 END) AS BIGINT) AS errors,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p50,
        percentile_disc(0.9) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p90,
        percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p99
    FROM tool_calls
    GROUP BY tool
),

class_counts AS (
    SELECT tool, error_class, count(*) AS n
    FROM tool_calls
    WHERE is_error
    GROUP BY tool, error_class
),

classes AS (
    SELECT
        tool,
        '{' || string_agg('"' || replace(error_class, '"', '') || '":' || CAST(n AS VARCHAR), ',' ORDER BY error_class)
        || '}' AS error_classes
    FROM class_counts
    GROUP BY tool
),

key_counts AS (
    SELECT tool, argument, count(*) AS n
    FROM call_arguments
    GROUP BY tool, argument
),

argument_counts AS (
    SELECT
        tool,
        '{' || string_agg('"' || replace(argument, '"', '') || '":' || CAST(n AS VARCHAR), ',' ORDER BY argument)
        || '}' AS argument_keys
    FROM key_counts
    GROUP BY tool
)

SELECT
    profiled.tool,
    profiled.calls,
    profiled.errors,
    coalesce(classes.error_classes, '{}') AS error_classes,
    profiled.latency_ms_p50,
    profiled.latency_ms_p90,
    profiled.latency_ms_p99,
    coalesce(argument_counts.argument_keys, '{}') AS argument_keys
FROM profiled
LEFT JOIN classes ON profiled.tool = classes.tool
LEFT JOIN argument_counts ON profiled.tool = argument_counts.tool
ORDER BY profiled.tool
