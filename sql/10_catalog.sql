-- The extension's own tables. Verbs write them with the extension owner's
-- rights; nobody else is granted more than SELECT on what is not secret.
-- Relations are stored as regclass, columns by name: both survive a dump.

CREATE SEQUENCE guest_context._entity_id_seq AS integer;
COMMENT ON SEQUENCE guest_context._entity_id_seq IS 'numbers of entities';

CREATE TABLE guest_context._entity
(
	entity_id			integer PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._entity_id_seq'),
	view				regclass NOT NULL UNIQUE,
	versions			regclass NOT NULL UNIQUE,
	speed				regclass NOT NULL,
	batch				regclass NOT NULL,
	root_id				integer NOT NULL,		-- its own entity_id for a root
	parent_id			integer,				-- NULL for a root
	parent_columns		text[],
	key_columns			text[] NOT NULL,
	version_column		text NOT NULL,
	shape_columns		text[] NOT NULL,		-- in the order of the shape and of the view
	mapping				jsonb,
	unmapped_column		text,
	expire_after		interval,
	partition_interval	interval NOT NULL,
	retention			interval NOT NULL,
	overlap				interval,				-- of a root; children follow it
	rebuild_every		interval,				-- of a root
	security_invoker	boolean NOT NULL,		-- to make a lost view again; the view itself says what holds
	created_at			timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE guest_context._entity IS 'one row per entity: its tree, its columns, its options';
CREATE INDEX _entity_root_id_idx ON guest_context._entity (root_id);

-- What a read needs to know, one row per entity. A statement reads it once
-- with its own snapshot; activation updates the rows of all entities of a root
-- in one transaction, so a statement sees one dataset and one window.
CREATE TABLE guest_context._window
(
	versions			regclass PRIMARY KEY,
	entity_id			integer NOT NULL UNIQUE,
	dataset_id			integer NOT NULL DEFAULT 0,		-- the active dataset that spans this entity, 0 = none
	window_start		timestamptz NOT NULL DEFAULT '-infinity',
	floor				timestamptz NOT NULL DEFAULT '-infinity',	-- lowest window start of all datasets not dropped
	leaves_until		timestamptz NOT NULL DEFAULT '-infinity',	-- upper bound of the newest speed leaf
	dropped_before		timestamptz NOT NULL DEFAULT '-infinity',	-- speed leaves below are gone, or going: no new window may need them
	covered_since		timestamptz NOT NULL DEFAULT '-infinity',	-- records from before may never have come: no new window may need them
	gone_before			timestamptz NOT NULL DEFAULT '-infinity'	-- those below are gone, or being detached: no old snapshot may read them
) WITH (fillfactor = 50);
COMMENT ON TABLE guest_context._window IS 'one row per entity: active dataset, window and what storage covers';

CREATE SEQUENCE guest_context._dataset_id_seq AS integer;
COMMENT ON SEQUENCE guest_context._dataset_id_seq IS 'numbers of datasets';

CREATE TABLE guest_context._dataset
(
	dataset_id		integer PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._dataset_id_seq'),
	root_id			integer NOT NULL,
	state			text NOT NULL DEFAULT 'loading'
					CHECK (state IN ('loading', 'sealed', 'active', 'retired', 'dropped')),
	as_of			timestamptz NOT NULL,
	built			boolean NOT NULL DEFAULT false,	-- from the truth itself, by build_dataset
	activate		boolean NOT NULL DEFAULT false,	-- build_dataset: activate when done
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	created_by		text NOT NULL DEFAULT current_user,
	sealed_at		timestamptz,
	activated_at	timestamptz,		-- the last time
	retired_at		timestamptz,
	dropped_at		timestamptz,
	verified_at		timestamptz,
	verified_active	integer,			-- the dataset that was active then, 0 = none
	verified_ok		boolean,			-- no check but regressions failed
	regressions		bigint,
	message			text				-- the last failure of background work
);
COMMENT ON TABLE guest_context._dataset IS 'one row per dataset of a root';
CREATE INDEX _dataset_root_id_idx ON guest_context._dataset (root_id);

CREATE TABLE guest_context._dataset_entity
(
	dataset_id			integer NOT NULL,
	entity_id			integer NOT NULL,
	window_start		timestamptz NOT NULL,	-- as_of - overlap, fixed at creation
	staging				regclass,				-- until sealed
	leaf				regclass,				-- from sealed until dropped
	rows				bigint,					-- live rows
	tombstones			bigint,
	superseded			bigint,					-- older versions that seal left out
	max_version			timestamptz,			-- newest version in the leaf
	recent_rows			bigint,					-- how many have version >= window_start
	PRIMARY KEY (dataset_id, entity_id)
);
COMMENT ON TABLE guest_context._dataset_entity IS 'one row per dataset and entity: its window, tables and counts';

CREATE TABLE guest_context._purged
(
	entity_id	integer NOT NULL,
	key			text NOT NULL,		-- as its types write it; a row literal where it has several columns
	version		timestamptz NOT NULL,
	role		text NOT NULL,
	reason		text,
	at			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (entity_id, version, key)
);
COMMENT ON TABLE guest_context._purged IS 'versions that an operator has taken out, and that stay away';

CREATE SEQUENCE guest_context._audit_id_seq;
COMMENT ON SEQUENCE guest_context._audit_id_seq IS 'numbers of audit records';

CREATE TABLE guest_context._audit
(
	audit_id	bigint PRIMARY KEY DEFAULT pg_catalog.nextval('guest_context._audit_id_seq'),
	at			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	role		text NOT NULL,
	verb		text NOT NULL,
	object		text NOT NULL,
	reason		text,
	detail		jsonb
);
COMMENT ON TABLE guest_context._audit IS 'acts of operators that cannot be undone: who, what, why';

ALTER SEQUENCE guest_context._entity_id_seq OWNED BY guest_context._entity.entity_id;
ALTER SEQUENCE guest_context._dataset_id_seq OWNED BY guest_context._dataset.dataset_id;
ALTER SEQUENCE guest_context._audit_id_seq OWNED BY guest_context._audit.audit_id;

-- All of it travels in a dump. One call a statement: each changes the same row
-- of pg_extension, which one command can do only once.
SELECT pg_catalog.pg_extension_config_dump('guest_context._entity', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._window', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._dataset', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._dataset_entity', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._purged', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._audit', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._entity_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._dataset_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('guest_context._audit_id_seq', '');
