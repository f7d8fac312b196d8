# Types of key columns and of other columns, and their values as text.
#
# A key is known to the tests by two small numbers, history and key: what text
# stands for it is made here, and for types where several texts are one key (1.0
# and 1.00), another one each time. So the reference never compares keys.
package Property::Types;

use strict;
use warnings;
use utf8;

use Exporter qw(import);
our @EXPORT_OK = qw(@key_kinds value_types key_texts value_text json_text stamp one_of chance quote_name quote_value copy_text);

sub chance { my ($percent) = @_; return rand(100) < $percent }
sub one_of { return $_[ rand @_ ] }

# Microseconds since 1970 as a timestamp that no setting changes.
sub stamp
{
	my ($us) = @_;
	my $seconds = int($us / 1_000_000);
	$seconds-- if $us < $seconds * 1_000_000;
	my @t = gmtime($seconds);
	return sprintf '%04d-%02d-%02d %02d:%02d:%02d.%06d+00', $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ],
	  $us - $seconds * 1_000_000;
}

sub quote_name { my ($name) = @_; return $name =~ /^[a-z_][a-z0-9_]*$/ ? $name : '"' . $name =~ s/"/""/gr . '"' }

# NULL, or a literal that standard_conforming_strings does not change
sub quote_value
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	my $quoted = $text =~ s/'/''/gr;
	return $quoted =~ /\\/ ? " E'" . $quoted =~ s/\\/\\\\/gr . "'" : "'$quoted'";
}

my %copy_escape = ("\\" => '\\\\', "\t" => '\\t', "\n" => '\\n', "\r" => '\\r');

sub copy_text
{
	my ($text) = @_;
	return '\\N' unless defined $text;
	$text =~ s/([\\\t\n\r])/$copy_escape{$1}/g;
	return $text;
}

# --- keys ---------------------------------------------------------------------------

sub any_case { my ($text) = @_; return join '', map { chance(50) ? uc : lc } split //, $text }

sub zeros { my ($number) = @_; return $number . one_of('', $number =~ /\./ ? ('0', '00') : ('.0', '.00')) }

# type of a column => [ SQL, text of key (h, k), several texts are one key? ]
# {S} is the schema's name. Numbers h and k are such that 100 h + k is unique.
my %key_type = (
	text => [ 'text', sub { "g$_[0]-$_[1]" . ('', "'", "\\", 'é', ' x')[ $_[1] % 5 ] } ],
	varchar_c => [ 'varchar(40) COLLATE "C"', sub { "V$_[0]:$_[1]" } ],
	no_case => [ 'text COLLATE {S}.no_case', sub { any_case("Kéy$_[0]x$_[1]") }, 1 ],
	int => [ 'int', sub { $_[0] * 100 + $_[1] } ],
	bigint => [ 'bigint', sub { ($_[1] % 2 ? -1 : 1) * ($_[0] * 100 + $_[1]) * 4294967296 } ],
	uuid => [ 'uuid', sub { sprintf '%08x-0000-4000-8000-%012x', reverse @_ } ],
	numeric => [ 'numeric', sub { my $n = $_[0] * 100 + $_[1]; zeros($n % 2 ? "$n.5" : $n) }, 1 ],
	date => [ 'date', sub { substr stamp(($_[0] * 100 + $_[1]) * 86_400_000_000), 0, 10 } ],
	timestamptz => [ 'timestamptz', sub { stamp($_[0] * 100_000_001 + $_[1]) } ],
	bytea => [ 'bytea', sub { sprintf '\\x00%06x00%02x', @_ } ],
	domain => [ '{S}.key_domain', sub { "d$_[0].$_[1]" } ],
	interval => [
		'interval',
		sub {
			my $n = $_[0] * 100 + $_[1];
			chance(50) ? "$n hours" : int($n / 24) . ' days ' . $n % 24 . ' hours';
		}, 1
	],
	bpchar => [ 'char(20)', sub { "b$_[0].$_[1]" . ' ' x rand 4 } ],
	jsonb => [ 'jsonb', sub { my $n = $_[0] * 100 + $_[1]; '{"k": ' . zeros("$n.5") . '}' }, 1 ],
	numerics => [ 'numeric[]', sub { my $n = $_[0] * 100 + $_[1]; '{' . zeros($n) . ',' . zeros('1') . '}' }, 1 ],
	# parts of composite keys: alone they are not unique
	tenant => [ 'text COLLATE "C"', sub { 't' . $_[1] % 3 } ],
	tenant_no_case => [ 'text COLLATE {S}.no_case', sub { any_case('tenant') . $_[1] % 3 }, 1 ],
	ref => [ 'int', sub { $_[0] * 50 + int($_[1] / 3) } ],
	ref_numeric => [ 'numeric', sub { zeros($_[0] * 50 + int($_[1] / 3)) }, 1 ],
	color => [ '{S}.color', sub { ('red', 'green')[ $_[1] % 2 ] } ],
	half => [ 'smallint', sub { int($_[1] / 2) % 2 } ],
	name => [ 'text', sub { "n$_[0]." . int($_[1] / 4) } ],
);

our @key_kinds = (
	(map { [$_] } qw(text varchar_c no_case int bigint uuid numeric date timestamptz bytea domain interval bpchar jsonb numerics)),
	[qw(tenant ref)], [qw(tenant_no_case ref_numeric)], [qw(color half name)]);

sub key_type_sql { my ($type, $schema) = @_; return $key_type{$type}[0] =~ s/\{S\}/$schema/r }
sub key_has_spellings { my (@types) = @_; return scalar grep { $key_type{$_}[2] } @types }

# The texts of one key, a column each.
sub key_texts { my ($types, $h, $k) = @_; return map { $key_type{$_}[1]->($h, $k) } @$types }

# --- values --------------------------------------------------------------------------

sub word
{
	return one_of('', 'x', 'NULL', '\\N', "it's", "tab\there", "two\nlines", 'back\\slash', 'Köln', '"q"', '(a,b)', '  ')
	  . (chance(30) ? int rand 100 : '');
}

my %value_type = (
	int => [ 'int', sub { int(rand 2000) - 1000 } ],
	bigint => [ 'bigint', sub { int(rand 1e15) } ],
	numeric => [ 'numeric', sub { sprintf '%.' . int(rand 4) . 'f', rand 1000 } ],
	float8 => [ 'float8', sub { int(rand 4000) / 8 } ],
	text => [ 'text', \&word ],
	boolean => [ 'boolean', sub { one_of('t', 'f') } ],
	date => [ 'date', sub { substr stamp(1.7e15 + int(rand 1e14)), 0, 10 } ],
	timestamptz => [ 'timestamptz', sub { stamp(1_700_000_000_000_000 + int rand 1e14) } ],
	jsonb => [ 'jsonb', sub { '{"a": [' . int(rand 9) . ', null], "b": "' . int(rand 99) . '"}' } ],
	json => [ 'json', sub { '{ "a":' . int(rand 9) . ', "a" : [ ] }' } ],
	bytea => [ 'bytea', sub { sprintf '\\x%04x', rand 65536 } ],
	uuid => [ 'uuid', sub { sprintf '%08x-0000-4000-8000-000000000000', rand 2**31 } ],
	texts => [ 'text[]', sub { '{' . join(',', map { '"' . word() =~ s/(["\\])/\\$1/gr . '"' } 0 .. rand 3) . '}' } ],
	ints => [ 'int[]', sub { '{' . join(',', map { int rand 99 } 0 .. rand 3) . '}' } ],
	inet => [ 'inet', sub { '10.0.' . int(rand 255) . '.1' } ],
	color => [ '{S}.color', sub { one_of('red', 'green', 'blue') } ],
	long => [ 'text', sub { chance(90) ? 'short' : join '', map { chr(33 + rand 90) } 1 .. 3000 } ],
);

sub value_types { return grep { $_ ne 'long' } sort keys %value_type }
sub value_type_sql { my ($type, $schema) = @_; return $value_type{$type}[0] =~ s/\{S\}/$schema/r }
sub value_text { my ($type) = @_; return $value_type{$type}[1]->() }

# --- JSON ------------------------------------------------------------------------------

my %json_escape = ("\n" => '\\n', "\t" => '\\t', "\r" => '\\r');
sub json_string { my ($text) = @_; return '"' . $text =~ s/(["\\])/\\$1/gr =~ s/([\n\t\r])/$json_escape{$1}/gr . '"' }

# A value of a type as a payload has it: numbers may come as numbers or as strings.
sub json_text
{
	my ($type, $text) = @_;
	return 'null' unless defined $text;
	return $text if $type =~ /^jsonb?$/;
	return $text eq 't' ? 'true' : 'false' if $type eq 'boolean';
	return '"' . $text =~ s/ /T/r =~ s/\+00$/Z/r . '"' if $type eq 'timestamptz';
	return one_of($text, json_string($text)) if $type =~ /^(?:int|bigint|numeric|float8|ref|ref_numeric|half)$/;
	if ($type =~ /^(?:ints|numerics)$/) { return '[' . substr($text, 1, -1) . ']' }
	if ($type eq 'texts')
	{
		my @items = $text =~ /"((?:[^"\\]|\\.)*)"/gs;
		return '[' . join(',', map { json_string(s/\\(.)/$1/gsr) } @items) . ']';
	}
	return json_string($text);
}

1;
