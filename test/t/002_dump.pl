# A database with entities survives pg_dump and a restore: the trees are the
# user's own tables, the catalogue rows travel with the extension.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE shop_owner LOGIN');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(source target);

$node->safe_psql('source', q{
	CREATE EXTENSION guest_context;
	CREATE SCHEMA shop AUTHORIZATION shop_owner;
	SET SESSION AUTHORIZATION shop_owner;
	CREATE TYPE shop.guest_shape AS (ref text, first_name text, modified_at timestamptz);
	CREATE TYPE shop.order_shape AS (ref text, guest_ref text, status text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.guests', 'shop.guest_shape');
	SELECT guest_context.create_entity('shop.orders', 'shop.order_shape',
		parent => 'shop.guests', parent_ref => '{guest_ref}', mapping => '{"status": "$.state"}');
	CREATE TYPE shop.price_shape AS (ref text, price numeric, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.prices', 'shop.price_shape');
	SELECT guest_context.apply('shop.prices', json_agg(json_build_object('ref', i::text, 'price', i,
		'modified_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))) FROM generate_series(1, 50) i;
	SELECT guest_context._build_dataset_now(guest_context.build_dataset('shop.prices', true));
	SELECT guest_context._build_dataset_now(guest_context.build_dataset('shop.prices', true));
	SELECT guest_context.apply('shop.prices', json_agg(json_build_object('ref', i::text, 'price', -i,
		'modified_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))) FROM generate_series(1, 20) i;
	SELECT guest_context.create_dataset('shop.prices', now());
	SELECT guest_context.purge_version('shop.prices', '51', '2066-01-01Z', 'stays away after a restore too');
});

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', $dump ], 'pg_dump runs');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('target'), '-f', $dump ],
	'the dump restores');

# What the dump of the restored database says: everything that matters, in one text.
sub dump_of
{
	my ($database, @options) = @_;
	my ($out) = run_command([ 'pg_dump', '-d', $node->connstr($database), @options ]);
	$out =~ s/^--.*\n//mg;
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	return $out;
}
is(dump_of('target'), dump_of('source'), 'the restored database dumps the same');

is($node->safe_psql('target', q{SELECT entity, key, reason FROM guest_context.purged_version}), 'shop.prices|51|stays away after a restore too',
	'purged versions are in the dump');

# Who is no superuser needs pg_read_all_data, and nothing of ours.
$node->safe_psql('postgres', 'CREATE ROLE dumper LOGIN IN ROLE pg_read_all_data');
$node->command_fails_like([ 'pg_dump', '-d', $node->connstr('source'), '-U', 'shop_owner' ],
	qr/(?:permission denied for (?:table|sequence) _|failed to get data for sequence "_)/, 'the owner of all entities cannot dump the catalogue, which may have those of others');
is(dump_of('source', '-U', 'dumper'), dump_of('source'), 'a member of pg_read_all_data dumps what a superuser does');

for my $entity (qw(shop.guests shop.orders))
{
	is( $node->safe_psql('target', "SELECT guest_context.truth_sql('$entity')"),
		$node->safe_psql('source', "SELECT guest_context.truth_sql('$entity')"),
		"$entity has the same view of truth");
	is($node->safe_psql('target', "SELECT count(*) FROM $entity"), '0', "$entity can be read");
}

# Datasets come along, with everything that reading and switching need.
my $prices = 'SELECT count(*), sum(price) FROM shop.prices';
is($node->safe_psql('source', $prices), '50|855', 'records win over the dataset in the source');
is($node->safe_psql('target', $prices), '50|855', 'and in the restored database');
is( $node->safe_psql('target', q{
		SELECT guest_context.load_dataset(3, 'shop.prices', $$SELECT '1' AS ref, 7 AS price, now() AS modified_at$$);
		SELECT guest_context.seal_dataset(3, '{"shop.prices": 1}');
		SELECT guest_context.rollback_dataset('shop.prices')}),
	"1\n1\n1", 'a dataset that was loading is loaded on, and one that was retired is active again');
is($node->safe_psql('target', $prices), '50|855', 'with the same truth');
$node->safe_psql('target', 'DROP INDEX shop.prices_batch_d1_recent');
is($node->safe_psql('target', $prices), '50|855', 'without its index of recent rows too');

# What was not restored whole, or dropped by hand, is an error.
$node->safe_psql('source', 'DROP VIEW shop.prices; DROP TABLE shop.prices_versions');
my ($status, $out, $err) = $node->psql('source', 'SELECT guest_context.seal_dataset(3)');
like($err, qr/the entities of dataset 3 are gone/, 'a dataset without its tables is an error');

# The numbers of new entities go on where they were.
$node->safe_psql('target', q{
	SET SESSION AUTHORIZATION shop_owner;
	CREATE TYPE shop.session_shape AS (ref text, guest_ref text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.sessions', 'shop.session_shape',
		parent => 'shop.guests', parent_ref => '{guest_ref}')});
is($node->safe_psql('target', 'SELECT count(DISTINCT entity_id) FROM guest_context._entity'),
	'4', 'a new entity fits in beside them');

# And all of it can go again.
$node->safe_psql('target', q{
	SELECT guest_context.drop_entity('shop.orders');
	SELECT guest_context.drop_entity('shop.sessions');
	SELECT guest_context.drop_entity('shop.guests');
	SELECT guest_context.drop_entity('shop.prices')});
is($node->safe_psql('target', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind <> 'c'}),
	'0', 'restored entities can be dropped');

$node->stop;
done_testing();
