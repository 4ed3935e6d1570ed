-- How many notifications a caller has asked for a day (UTC), over all replicas of the
-- front. Each adds what it has counted about once a second; rows go after 35 days.

CREATE TABLE caller_quota (
    day             date NOT NULL,
    caller          text NOT NULL,
    notifications   bigint NOT NULL,
    PRIMARY KEY (day, caller)
);
