# The extension comes and goes without a trace: create, drop, create again,
# and a dump of a database that has it restores.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

# Everything in the catalogue that initdb did not make, by what it is called.
my $made = q{
SELECT string_agg(what, E'\n' ORDER BY what) FROM (
  SELECT 'class ' || c.oid::regclass FROM pg_class c WHERE oid >= 16384
  UNION ALL SELECT 'proc ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
  UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384
  UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384
  UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
  UNION ALL SELECT 'wrapper ' || fdwname FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE oid >= 16384
  UNION ALL SELECT 'operator ' || oid::regoperator FROM pg_operator WHERE oid >= 16384
  UNION ALL SELECT 'cast ' || oid FROM pg_cast WHERE oid >= 16384
  UNION ALL SELECT 'default acl ' || oid FROM pg_default_acl
  UNION ALL SELECT 'setting ' || setdatabase FROM pg_db_role_setting
) AS x(what)};

is($node->safe_psql('postgres', $made), '', 'a new database holds nothing');

for my $round (1 .. 2)
{
	$node->safe_psql('postgres', 'CREATE EXTENSION guest_context');
	my $there = $node->safe_psql('postgres', $made);
	like($there, qr/^schema guest_context$/m, "round $round: the schema is there");
	my @elsewhere = grep { /^(?:class|proc|type) / && !/^\w+ (?:pg_toast|guest_context|"?guest_context"?)\./ }
	  split /\n/, $there;
	is("@elsewhere", '', "round $round: nothing is made outside of it");

	$node->safe_psql('postgres', 'DROP EXTENSION guest_context');
	is($node->safe_psql('postgres', $made), '', "round $round: DROP EXTENSION leaves nothing");
}

# Texts of records are UTF-8, so there is no other encoding for the extension to be in.
$node->safe_psql('postgres', q{CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('postgres', q{CREATE DATABASE recoded TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'});
my (undef, undef, $refused) = $node->psql('latin1', 'CREATE EXTENSION guest_context');
like($refused, qr/ERROR:  guest_context needs a database with the encoding UTF8\nDETAIL:  The encoding of database "latin1" is LATIN1;.*\nHINT:  CREATE DATABASE/,
	'CREATE EXTENSION refuses a database that is not UTF8');
is($node->safe_psql('latin1', $made), '', 'and leaves nothing there');
$node->safe_psql('recoded', q{CREATE EXTENSION guest_context; CREATE TYPE shape AS (ref text, modified_at timestamptz)});
$node->safe_psql('postgres', q{UPDATE pg_database SET encoding = 8 WHERE datname = 'recoded'});
(undef, undef, $refused) = $node->psql('recoded', q{SELECT guest_context.create_entity('things', 'shape')});
like($refused, qr/ERROR:  guest_context needs a database with the encoding UTF8/, 'and so does create_entity');

# A dump made with the extension restores into an empty database.
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('postgres', 'CREATE DATABASE target');
$node->safe_psql('source', 'CREATE EXTENSION guest_context');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', $dump ], 'pg_dump runs');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('target'), '-f', $dump ],
	'the dump restores');
is( $node->safe_psql('target', q{SELECT count(*) FROM pg_extension WHERE extname = 'guest_context'}),
	'1', 'the extension is in the restored database');

# It loads at server start as well as in a session.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'guest_context'");
$node->restart;
is($node->safe_psql('source', 'SHOW guest_context.keep_datasets'), '2', 'it loads by shared_preload_libraries');
my ($status, $out, $err) = $node->psql('source', 'SET guest_context.no_such_setting = 1');
isnt($status, 0, 'an unknown setting of ours is refused');
like($err, qr/invalid configuration parameter name/, 'and says why');

$node->stop;
done_testing();
