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
});

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', $dump ], 'pg_dump runs');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('target'), '-f', $dump ],
	'the dump restores');

# What the dump of the restored database says: everything that matters, in one text.
sub dump_of
{
	my ($database) = @_;
	my ($out) = run_command([ 'pg_dump', '-d', $node->connstr($database) ]);
	$out =~ s/^--.*\n//mg;
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	return $out;
}
is(dump_of('target'), dump_of('source'), 'the restored database dumps the same');

for my $entity (qw(shop.guests shop.orders))
{
	is( $node->safe_psql('target', "SELECT guest_context.truth_sql('$entity')"),
		$node->safe_psql('source', "SELECT guest_context.truth_sql('$entity')"),
		"$entity has the same view of truth");
	is($node->safe_psql('target', "SELECT count(*) FROM $entity"), '0', "$entity can be read");
}

# The numbers of new entities go on where they were.
$node->safe_psql('target', q{
	SET SESSION AUTHORIZATION shop_owner;
	CREATE TYPE shop.session_shape AS (ref text, guest_ref text, modified_at timestamptz);
	SELECT guest_context.create_entity('shop.sessions', 'shop.session_shape',
		parent => 'shop.guests', parent_ref => '{guest_ref}')});
is($node->safe_psql('target', 'SELECT count(DISTINCT entity_id) FROM guest_context._entity'),
	'3', 'a new entity fits in beside them');

# And all of it can go again.
$node->safe_psql('target', q{
	SELECT guest_context.drop_entity('shop.orders');
	SELECT guest_context.drop_entity('shop.sessions');
	SELECT guest_context.drop_entity('shop.guests')});
is($node->safe_psql('target', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind <> 'c'}),
	'0', 'restored entities can be dropped');

$node->stop;
done_testing();
