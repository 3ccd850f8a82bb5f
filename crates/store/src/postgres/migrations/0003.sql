-- People who have shown a first factor and have not finished with the second. A sign-in is found by the keyed hash of its token, and has
-- no order of age; but unlike a limit it has an end from the beginning, so retention finds by the index what is over. A program that
-- does not know of the table leaves what is over in it to the next one that does.
CREATE TABLE sign_ins (
    tenant uuid NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    born bigint NOT NULL,
    over_at bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX sign_ins_over ON sign_ins (tenant, over_at);
