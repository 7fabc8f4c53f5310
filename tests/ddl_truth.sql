-- The schema in which the statements of ddl_truth.json were observed.
CREATE TYPE mood AS ENUM ('sad','ok');
CREATE TYPE pair AS (x int, y int);
CREATE DOMAIN posint AS int;
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION f_imm(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1+1';
CREATE TABLE parent (id bigint PRIMARY KEY, n int);
CREATE TABLE t (
  id int PRIMARY KEY, parent_id bigint, a int, b text, vc varchar(20), num numeric(8,2), ts timestamp, tz timestamptz,
  ch char(5), j jsonb, nn int NOT NULL, ck int CHECK (ck > 0), m mood, dom posint, vi varchar(20), ip inet, bi bit varying(8), tm timestamptz(3));
CREATE INDEX t_a_idx ON t(a);
CREATE INDEX t_vi_idx ON t(vi);
CREATE INDEX t_num_idx ON t(num);
CREATE TABLE child (id bigint PRIMARY KEY, t_id int REFERENCES t(id), u int);
CREATE TABLE other (id int, k int, s text);
CREATE TABLE part (id int NOT NULL, d date NOT NULL, v int) PARTITION BY RANGE (d);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE part_ck (id int NOT NULL, d date NOT NULL, v int, CONSTRAINT c CHECK (d >= '2022-01-01' AND d < '2023-01-01'));
CREATE TABLE part_no (id int NOT NULL, d date NOT NULL, v int);
CREATE TABLE inh (extra int) INHERITS (other);
CREATE VIEW vw AS SELECT id, a FROM t;
CREATE MATERIALIZED VIEW mv AS SELECT id, a FROM t WITH NO DATA;
CREATE SEQUENCE sq;
ALTER TABLE t ADD CONSTRAINT t_b_len CHECK (length(b) < 1000) NOT VALID;
ALTER TABLE t ADD CONSTRAINT t_parent_fk FOREIGN KEY (parent_id) REFERENCES parent(id) NOT VALID;
ALTER TABLE t ADD CONSTRAINT t_a_nn CHECK (a IS NOT NULL);
CREATE TRIGGER t_trg BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION trg();
INSERT INTO parent SELECT g, g FROM generate_series(1,4000) g;
INSERT INTO t SELECT g, g, g, repeat('b',80), 'v'||g, g%1000, now(), now(), 'c', '{}', g, 1, 'ok', 1, 'v'||g, '10.0.0.1', B'101', now() FROM generate_series(1,4000) g;
INSERT INTO child SELECT g, g, g FROM generate_series(1,4000) g;
INSERT INTO other SELECT g, g, repeat('s',60) FROM generate_series(1,4000) g;
INSERT INTO part SELECT g, date '2020-01-01' + g%700, g FROM generate_series(1,4000) g;
INSERT INTO part_ck SELECT g, '2022-05-05', g FROM generate_series(1,4000) g;
INSERT INTO part_no SELECT g, '2022-05-05', g FROM generate_series(1,4000) g;
REFRESH MATERIALIZED VIEW mv;
CREATE UNIQUE INDEX mv_id ON mv(id);
CREATE UNIQUE INDEX other_id_u ON other(id);
VACUUM ANALYZE;
