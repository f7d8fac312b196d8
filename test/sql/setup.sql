-- The extension is there, in its own schema, and everything in it belongs to it.
CREATE EXTENSION guest_context;
SELECT extname, extversion, extrelocatable FROM pg_extension WHERE extname = 'guest_context';
-- nothing undocumented: every object the extension made has a comment
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS without_comment
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'guest_context' AND d.deptype = 'e'
  AND d.classid IN ('pg_proc'::regclass, 'pg_type'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass, 'pg_foreign_data_wrapper'::regclass)
  AND obj_description(d.objid, d.classid::regclass::text::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_type t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
                  AND (t.typrelid <> 0 OR t.typelem <> 0))
  AND NOT EXISTS (SELECT FROM pg_class c WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 'S'))
ORDER BY 1;
