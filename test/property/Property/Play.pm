# Plays a story on a server: makes the schema, writes records, activates datasets,
# and tells the reference the same. Reads are compared in Check.
#
# Two sessions: the owner writes, a reader who was granted the views reads. So
# everything that the reader has prepared goes through the changes of another session.
package Property::Play;

use strict;
use warnings;
use utf8;

use Property::Types qw(stamp one_of chance quote_name quote_value copy_text json_text);
use Property::Reference;
use Property::Check;

# new(story => ..., owner => session, reader => session, log => \@lines)
sub new
{
	my ($class, %arg) = @_;
	my $self = bless { %arg, schema => $arg{story}{schema}, next_id => 1, applied => {} }, $class;
	$self->{reference} = Property::Reference->new($self->{story});
	$self->{check} = Property::Check->new(play => $self, mutants => $arg{mutants});
	return $self;
}

sub view { my ($self, $entity) = @_; return "$self->{schema}." . quote_name($entity->{name}) }
sub versions { my ($self, $entity) = @_; return "$self->{schema}." . quote_name("$entity->{name}_versions") }
sub speed { my ($self, $entity) = @_; return "$self->{schema}." . quote_name("$entity->{name}_speed") }
sub columns { my ($entity) = @_; return join ', ', map { quote_name($_->{name}) } @{ $entity->{columns} } }
sub interval { my ($us) = @_; return sprintf "interval '%d seconds'", $us / 1_000_000 }
sub text_array { return quote_value('{' . join(',', map { '"' . s/(["\\])/\\$1/gr . '"' } @_) . '}') }

# Entities that there are so far, parents first.
sub entities { my ($self) = @_; return @{ $self->{entities} } }
sub root { my ($self) = @_; return $self->{story}{entities}[0] }

# The whole story; an exception says what differs.
sub play
{
	my ($self) = @_;
	my $story = $self->{story};

	$self->make_schema;
	$self->make_entity($_) for grep { !$_->{born} } @{ $story->{entities} };
	for my $phase (0 .. @{ $story->{events} })
	{
		$self->{step} = "phase $phase";
		$self->event($story->{events}[ $phase - 1 ]) if $phase > 0;
		$self->change_filters if $story->{filters} && chance(60);
		$self->insert(@{ $story->{inserts}[$phase] || [] });
		$self->change_filters if $story->{filters} && chance(40);
		$self->purge if chance(50);
		$self->{check}->run($phase == @{ $story->{events} });
	}
	$self->{step} = 'end';
	return;
}

# --- schema -----------------------------------------------------------------------

sub make_schema
{
	my ($self) = @_;
	my $schema = $self->{schema};

	$self->{step} = 'schema';
	$self->{owner}->run(<<"SQL");
CREATE SCHEMA $schema;
GRANT USAGE ON SCHEMA $schema TO property_reader;
CREATE COLLATION $schema.no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE $schema.color AS ENUM ('red', 'green', 'blue');
CREATE DOMAIN $schema.key_domain AS text CHECK (VALUE <> '');
CREATE FUNCTION $schema.slow(val text) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE AS
	'BEGIN IF hashtext(val) % 40 = 0 THEN PERFORM pg_sleep(0.0003); END IF; RETURN true; END';
SQL
	$self->{reader}->run("CREATE TEMP TABLE ids (id int);");
	return;
}

sub make_entity
{
	my ($self, $entity) = @_;
	my ($schema, $story, $view) = ($self->{schema}, $self->{story}, $self->view($entity));
	my @definitions;

	for my $column (@{ $entity->{columns} })
	{
		my $type = $column->{role} =~ /key|parent/ ? Property::Types::key_type_sql($column->{type}, $schema)
		  : Property::Types::value_type_sql($column->{type}, $schema);
		my $sql = quote_name($column->{name}) . " $type";
		$sql .= ' DEFAULT ' . quote_value($column->{default}) if exists $column->{default};
		$sql .= ' NOT NULL' if $entity->{is_table} && $column->{role} eq 'val';
		push @definitions, $sql;
	}
	push @definitions, 'CHECK (amount IS NULL OR amount >= 0)' if $entity->{is_table};
	my $shape = "$schema.shape$entity->{n}";
	my @options = ('key => ' . text_array(@{ $entity->{key} }), 'version => ' . quote_value($entity->{version}));
	push @options, 'partition_interval => ' . interval($entity->{partition_interval});
	push @options, 'expire_after => ' . interval($entity->{expire_after}) if defined $entity->{expire_after};
	push @options, 'retention => ' . interval($story->{retention});
	if (defined $entity->{parent})
	{
		push @options, 'parent => ' . quote_value($self->view($story->{entities}[ $entity->{parent} ])),
		  'parent_ref => ' . text_array(@{ $entity->{parent_columns} });
	}
	else { push @options, 'overlap => ' . interval($story->{overlap}) }

	my $create = $entity->{is_table} ? "CREATE TABLE $shape (" : "CREATE TYPE $shape AS (";
	my $oldest = $self->{owner}->value(<<"SQL");
$create @{[ join ', ', @definitions ]});
\\o /dev/null
SELECT guest_context.create_entity(@{[ quote_value($view) ]}, '$shape', @{[ join ', ', @options ]});
SELECT guest_context.grant_reader(@{[ quote_value($view) ]}, 'property_reader');
\\o
CREATE UNLOGGED TABLE $schema.record$entity->{n} AS SELECT 0 AS id, v.* FROM $view v WHERE false;
GRANT SELECT ON $schema.record$entity->{n} TO property_reader;
SELECT min((extract(epoch FROM substring(pg_get_expr(relpartbound, oid) FROM \$\$FROM \\('([^']+)'\\)\$\$)::timestamptz) * 1000000)::bigint)
FROM pg_class WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = @{[ quote_value($self->speed($entity)) ]}::regclass);
SQL
	$self->make_leaves($entity, $oldest);
	push @{ $self->{entities} }, $entity;
	return;
}

# Partitions of the past, as the extension makes them.
sub make_leaves
{
	my ($self, $entity, $oldest) = @_;
	my @cuts = grep { $_ < $oldest } @{ $entity->{cuts} };
	my $speed = $self->speed($entity);
	my $sql = '';

	for my $i (0 .. $#cuts)
	{
		my $leaf = "$self->{schema}." . quote_name("$entity->{name}_speed_past$i");
		my ($from, $to) = map { stamp($_) } $cuts[$i], $cuts[ $i + 1 ] // $oldest;
		# some have their columns in other places than the tree
		my $elsewhere = chance(25);
		$self->{story}->note_all('partition with its columns elsewhere') if $elsewhere;
		$sql .= "CREATE TABLE $leaf (" . ($elsewhere ? 'scratch int, ' : '') . "LIKE $speed INCLUDING ALL);\n"
		  . ($elsewhere ? "ALTER TABLE $leaf DROP COLUMN scratch;\n" : '')
		  . "ALTER TABLE $speed ATTACH PARTITION $leaf FOR VALUES FROM ('$from') TO ('$to');\n";
	}
	$self->{owner}->run($sql);
	return;
}

# --- key filters -------------------------------------------------------------------

use constant PAST => 40;       # percent of the partitions that get one, when their time is over
use constant PRESENT => 10;    # and when it is not: then what is applied goes into it too

# Filters that come, are made again, and go, at any moment; maintenance makes some too.
sub change_filters
{
	my ($self) = @_;
	my @sql;

	for my $entity ($self->entities)
	{
		my @key = map { quote_name($_) } @{ $entity->{key} };
		my @wrong = ('val', 'gc_offset', join(', ', @key, 'gc_source'), @key == 1 ? () : (join(', ', reverse @key), $key[0]));

		for my $leaf ($self->leaves($entity))
		{
			# one that must not be taken for it
			push @sql, "CREATE INDEX ON $leaf->{name} USING gc_key_filter (" . one_of(@wrong) . ");" if chance(12);
			if (!$leaf->{filter})
			{
				next unless chance($leaf->{to} <= $self->{story}{base} ? PAST : PRESENT);
				push @sql, "CREATE INDEX ON $leaf->{name} USING gc_key_filter (" . join(', ', @key) . ");";
			}
			elsif (chance(8)) { push @sql, "DROP INDEX $leaf->{filter};" }
			elsif (chance(8)) { push @sql, "REINDEX INDEX $leaf->{filter};" }
		}
	}
	for my $sql (@sql)
	{
		my $out = $self->{owner}->try($sql);
		# maintenance may have dropped the partition meanwhile
		die "$sql $out" if $out =~ /ERROR/ && $out !~ /ERROR: +(?:42P01|42704)/;
	}
	return;
}

# The partitions of an entity's records: bounds, and the names of their filters.
sub leaves
{
	my ($self, $entity) = @_;
	my $at = sub { "(extract(epoch FROM substring(pg_get_expr(c.relpartbound, c.oid) FROM \$\$$_[0] \\('([^']+)'\\)\$\$)::timestamptz) * 1000000)::bigint" };

	return map { my %leaf; @leaf{qw(name from to filter)} = @$_; \%leaf } $self->{owner}->rows(
		"SELECT c.oid::regclass, @{[ $at->('FROM') ]}, @{[ $at->('TO') ]}, (SELECT min(x.indexrelid::regclass::text) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
		  . " JOIN pg_am a ON a.oid = i.relam WHERE x.indrelid = c.oid AND a.amname = 'gc_key_filter' AND pg_get_indexdef(x.indexrelid) LIKE " . quote_value('%(' . join(', ', map { quote_name($_) } @{ $entity->{key} }) . ')') . ") FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid"
		  . " WHERE h.inhparent = @{[ quote_value($self->speed($entity)) ]}::regclass ORDER BY 2;");
}

# Notes what is about to be written where a filter stands.
sub note_filters
{
	my ($self, $entity, @records) = @_;
	my @filtered = grep { $_->{filter} } $self->leaves($entity) or return;

	$self->{story}->note_all('key filter');
	for my $record (@records)
	{
		$self->{story}->note('record that comes after its key filter', $record->{h} % $self->{story}{histories})
		  if grep { $record->{arrival} >= $_->{from} && $record->{arrival} < $_->{to} } @filtered;
	}
	return;
}

# --- records -----------------------------------------------------------------------

# Everything that the reference needs is known of a record afterwards.
sub insert
{
	my ($self, @records) = @_;

	for my $entity ($self->entities)
	{
		my @mine = grep { $_->{entity} == $entity } @records;
		my @written = $self->apply($entity, grep { $_->{apply} } @mine);
		# what was left out has no place that a copy of it could take
		my @rows = grep { !$_->{apply} && (!$_->{again_of} || defined $_->{again_of}{source}) } @mine;
		for my $row (grep { $_->{again_of} } @rows)
		{
			$row->{$_} = $row->{again_of}{$_} for qw(version source partition offset arrival);
		}
		$self->note_filters($entity, @rows) if @rows;
		$self->mislead_planner($entity, @rows);
		push @written, $self->copy($entity, @rows);
		$self->{reference}->add_record($_) for @written;
		$self->remember($entity, @written);
	}
	return;
}

sub texts
{
	my ($record) = @_;
	my $entity = $record->{entity};
	my %text = (%{ $record->{cell} }, val => $record->{val}, $entity->{version} => stamp($record->{version}));

	@text{ @{ $entity->{key} } } = @{ $record->{key} };
	return map { $text{ $_->{name} } } @{ $entity->{columns} };
}

# Writes records where they have arrived; returns those for which there is still a partition.
sub copy
{
	my ($self, $entity, @records) = @_;
	my @written;

	# in parts: the order of rows in the tables is not the order of the records
	my $half = int rand @records;
	for my $part ([ @records[ 0 .. $half ] ], [ @records[ $half + 1 .. $#records ] ])
	{
		my ($before, @rows, $error);
		do
		{
			$before = $entity->{dropped_before} // 0;
			@rows = grep { $_ && $_->{arrival} >= $before } @$part;
			# some are written, undone, and written again
			my $sql = $self->copy_sql($entity, @rows);
			my $undone = chance(12);
			$self->{story}->note_all('records written and undone') if $undone;
			$sql = "BEGIN;\n$sql\nROLLBACK;\n$sql" if $undone;
			$error = eval { $self->{owner}->run($sql) if @rows; 1 } ? '' : $@;
			# maintenance may have come in between
			$self->see_maintenance if $error =~ /^ERROR: +23514: no partition/;
		} while ($error && ($entity->{dropped_before} // 0) > $before);
		die $error if $error;
		push @written, @rows;
	}
	return @written;
}

# Makes the partitions seem to have few rows a page, so that a map of the window is made too small at first.
sub mislead_planner
{
	my ($self, $entity, @records) = @_;
	my @long = map { { %$_, val => join '', map { chr(33 + rand 90) } 1 .. 1500 } } grep { defined && !$_->{deleted} } @records[ 0 .. 199 ];

	return if !$self->{story}{wide} || $entity->{misled}++ || !@long;
	$self->{owner}->run("BEGIN;\n" . $self->copy_sql($entity, @long) . "\nANALYZE " . $self->versions($entity) . ";\nROLLBACK;");
	$self->{story}->note_all('window with more rows than planned');
	return;
}

sub copy_sql
{
	my ($self, $entity, @records) = @_;
	my $versions = $self->versions($entity);
	return "COPY $versions (gc_arrived_at, gc_offset, gc_dataset, gc_source, gc_partition, gc_deleted, "
	  . columns($entity) . ") FROM STDIN;\n"
	  . join('', map { join("\t", stamp($_->{arrival}), $_->{offset}, 0, $_->{source}, $_->{partition},
			$_->{deleted} ? 't' : 'f', map { copy_text($_) } texts($_)) . "\n" } @records)
	  . "\\.";
}

# The contents by number, to make the expected tables of.
sub remember
{
	my ($self, $entity, @records) = @_;
	my @live = grep { !$_->{deleted} } @records or return;

	$_->{id} = $self->{next_id}++ for @live;
	$self->{owner}->run("COPY $self->{schema}.record$entity->{n} (id, " . columns($entity) . ") FROM STDIN;\n"
		  . join('', map { join("\t", $_->{id}, map { copy_text($_) } texts($_)) . "\n" } @live) . "\\.");
	return;
}

# Takes some versions out, by the operator's verb: those that show, and others. Not of histories that have a twin.
sub purge
{
	my ($self) = @_;
	my ($reference, $story) = ($self->{reference}, $self->{story});
	my $sql = '';

	for my $entity ($self->entities)
	{
		my $winners = $reference->winners($entity);
		my $records = $reference->{records}[ $entity->{n} ];
		my @keys = grep { /^(\d+)/ && $1 >= $story->{twins} && $1 < $story->{histories} } sort keys %$winners or next;
		for (1 .. 12)
		{
			my $key = one_of(@keys);
			my $version = chance(60) || !@{ $records->{$key} || [] } ? $winners->{$key} : one_of(@{ $records->{$key} });
			my @texts = map { quote_value($_) } @{ $version->{key} };
			$sql .= 'SELECT guest_context.purge_version(' . quote_value($self->view($entity)) . ', '
			  . (@texts == 1 ? $texts[0] : 'ROW(' . join(', ', @texts) . ')::text') . ", '@{[ stamp($version->{version}) ]}');\n";
			$reference->purge($entity, $version);
			$story->note('purged version', $version->{h});
		}
	}
	$self->{owner}->run("\\o /dev/null\n$sql\\o") if $sql;
	return;
}

# Through apply(): deletes and upserts are calls of their own, in the order of the records. Returns those that were written.
sub apply
{
	my ($self, $entity, @records) = @_;
	return unless @records;
	my ($view, $versions) = (quote_value($self->view($entity)), $self->versions($entity));
	my @calls;

	for my $record (@records)
	{
		push @calls, [ $record->{deleted}, [] ] if !@calls || $calls[-1][0] != $record->{deleted} && @calls < 8;
		my ($call) = grep { $_->[0] == $record->{deleted} } reverse @calls;
		push @$call, [$record->{deleted}] unless $call;
		push @{ $call->[1] }, $record;
	}
	my $sql = "\\o /dev/null\n" . join('', map {
			my ($deleted, $call) = @$_;
			"SELECT guest_context.apply($view, " . quote_value('[' . join(',', map { payload($_) } @$call) . ']')
			  . '::json, ' . ($deleted ? 'true' : 'false') . ");\n"
	} @calls) . "\\o\n";
	my $version = quote_name($entity->{version});
	my $last = $self->{applied}{ $entity->{n} } // 0;
	$self->{owner}->run($sql);
	my @written = $self->{owner}->rows(<<"SQL");
SELECT gc_offset, (extract(epoch FROM gc_arrived_at) * 1000000)::bigint, (extract(epoch FROM $version) * 1000000)::bigint, gc_deleted
FROM $versions WHERE gc_dataset = 0 AND gc_source = 0 AND gc_offset > $last AND gc_offset < 1000000000 ORDER BY gc_offset;
SQL
	my @in_order = grep { $_->{no_version} || !$self->{reference}->is_purged($entity, $_) } map { @{ $_->[1] } } @calls;
	die sprintf("apply() was given %d records and wrote %d\n", scalar @in_order, scalar @written) if @in_order != @written;
	for my $record (@in_order)
	{
		my ($offset, $arrival, $at, $deleted) = @{ shift @written };
		$record->{version} = $at if $record->{no_version};
		die "apply() wrote version $at of $record->{h}.$record->{k} instead of $record->{version}\n"
		  if $at != $record->{version} || ($deleted eq 't') != !!$record->{deleted};
		@$record{qw(source partition offset arrival)} = (0, 0, $offset, $arrival);
		$self->{applied}{ $entity->{n} } = $offset;
	}
	return @in_order;
}

sub payload
{
	my ($record) = @_;
	my $entity = $record->{entity};
	my @texts = texts($record);
	my @fields;

	for my $column (@{ $entity->{columns} })
	{
		my $text = shift @texts;
		next if $record->{left_out}{ $column->{name} };
		next if $record->{deleted} && ($column->{role} eq 'version' ? $record->{no_version} : $column->{role} ne 'key');
		push @fields, Property::Types::json_string($column->{name}) . ':' . json_text($column->{type}, $text);
	}
	return '{' . join(',', @fields) . '}';
}

# --- datasets ------------------------------------------------------------------------

# What moves the active dataset; half of the time a reader's old snapshot looks on.
sub event
{
	my ($self, $event) = @_;
	my $watch = chance(40);

	$self->{step} .= " ($event->{kind})";
	$self->{check}->begin_watching if $watch;
	$self->${ \"event_$event->{kind}" }($event);
	$self->maintain if chance($watch ? 10 : 40);
	$self->{check}->end_watching if $watch;
	return;
}

# What no dataset needs any more goes. No record can arrive there afterwards, and no
# dataset can be created whose window would begin there.
sub maintain
{
	my ($self) = @_;

	$self->{owner}->run("\\o /dev/null\nSELECT count(*) FROM guest_context.run_maintenance();\n\\o");
	$self->see_maintenance;
	return;
}

# What is gone by now; a worker may do its round at any time.
sub see_maintenance
{
	my ($self) = @_;
	my $names = join ', ', map { '(' . $_->{n} . ', ' . quote_value($self->versions($_)) . '::regclass)' } $self->entities;

	for my $row ($self->{owner}->rows("SELECT n, (extract(epoch FROM dropped_before) * 1000000)::bigint FROM guest_context._window"
			. " JOIN (VALUES $names) e(n, versions) USING (versions) WHERE dropped_before > '-infinity';"))
	{
		my ($n, $before) = @$row;
		my $entity = $self->{story}{entities}[$n];
		next if $before == ($entity->{dropped_before} // 0);
		die "maintenance dropped partitions of entity $n that the active dataset needs\n"
		  if $before > ($self->{reference}->window($entity))[0];
		$entity->{dropped_before} = $before;
		$self->{story}->note_all('partitions dropped');
	}
	return;
}

# A child that is born now was not there when the dataset was created.
sub make_children
{
	my ($self) = @_;
	my %there = map { $_->{n} => 1 } $self->entities;

	$self->make_entity($_) for grep { !$there{ $_->{n} } } @{ $self->{story}{entities} };
	return;
}

sub event_external
{
	my ($self, $event) = @_;
	my ($owner, $root) = ($self->{owner}, quote_value($self->view($self->root)));
	my @spanned = $self->entities;
	my $id = $owner->try("SELECT guest_context.create_dataset($root, '@{[ stamp($event->{as_of}) ]}');");
	$self->see_maintenance;
	my $gone = grep { ($_->{dropped_before} // 0) > $self->{story}->window_start($event->{as_of}) } @spanned;
	die "create_dataset, when its window is " . ($gone ? 'gone' : 'there') . ", gave: $id" if $id !~ ($gone ? qr/ERROR: +55000: .*are gone/ : qr/^\d+$/);
	if ($gone)
	{
		$self->{story}->note_all('dataset refused');
		$self->make_children;
		return;
	}
	chomp $id;
	my $dataset = $self->{reference}->seal_external($id, $event, @spanned);
	my @expected;

	$self->make_children;
	for my $entity (@spanned)
	{
		my @rows = @{ $event->{rows}[ $entity->{n} ] || [] };
		my $data = "(gc_deleted, " . columns($entity) . ") FROM STDIN;\n"
		  . join('', map { join("\t", $_->{deleted} ? 't' : 'f', map { copy_text($_) } texts($_)) . "\n" } @rows) . "\\.\n";
		my $view = quote_value($self->view($entity));
		if (chance(50))
		{
			my $staging = $owner->value("SELECT guest_context.dataset_table($id, $view);");
			$owner->run("COPY $staging $data");
		}
		else
		{
			my $source = "load$entity->{n}";
			$owner->run("CREATE TEMP TABLE $source AS SELECT v.*, false AS gc_deleted FROM @{[ $self->view($entity) ]} v WHERE false;\n"
				  . "COPY $source $data"
				  . "SELECT guest_context.load_dataset($id, $view, 'SELECT * FROM $source');\nDROP TABLE $source;");
		}
		push @expected, Property::Types::json_string($self->view($entity)) . ':' . Property::Reference::live_rows($dataset, $entity);
		$self->remember($entity, values %{ $dataset->{rows}[ $entity->{n} ] });
	}
	$owner->run("SELECT guest_context.seal_dataset($id, " . quote_value('{' . join(',', @expected) . '}') . ');');
	$self->activate($id) unless $event->{unused};
	return;
}

sub event_built
{
	my ($self, $event) = @_;
	my $root = quote_value($self->view($self->root));
	my @spanned = $self->entities;

	# one transaction, so that no worker hears of it before it is built
	my $id = $self->{owner}->value(<<"SQL");
BEGIN;
SELECT guest_context.build_dataset($root) AS id \\gset
\\o /dev/null
SELECT guest_context._build_dataset_now(:id);
\\o
COMMIT;
\\echo :id
SQL
	my $as_of = $self->{owner}->value(
		"SELECT (extract(epoch FROM as_of) * 1000000)::bigint FROM guest_context.dataset WHERE dataset = $id;");
	$self->{reference}->seal_built($id, $as_of, @spanned);
	$self->{story}->note_all('built dataset');
	$self->make_children;
	$self->activate($id) unless $event->{unused};
	return;
}

sub activate
{
	my ($self, $id) = @_;
	my $expected = $self->{reference}->activate($id);
	my $before = $self->{owner}->value(<<"SQL");
\\o /dev/null
SELECT guest_context.verify_dataset($id);
\\o
SELECT guest_context.activate_dataset($id, force => true);
SQL
	die "activate_dataset($id) returned '$before' instead of '$expected'\n" if $before ne ($expected || '');
	$self->{story}->note_all('activation');
	$self->{story}->note_all('second activation') if $expected;
	return;
}

sub event_rollback
{
	my ($self) = @_;
	my $root = quote_value($self->view($self->root));
	my $expected = $self->{reference}->earlier;

	if (!$expected)
	{
		my $out = $self->{owner}->try("SELECT guest_context.rollback_dataset($root, force => true);");
		die "rollback with nothing to go back to: $out\n" if $out !~ /no earlier dataset/;
		return;
	}
	my $now = $self->{owner}->value("SELECT guest_context.rollback_dataset($root, force => true);");
	die "rollback_dataset returned $now instead of $expected\n" if $now != $expected;
	$self->{reference}->activate($expected, 1);
	$self->{story}->note_all('rollback');
	return;
}

# Any dataset that was sealed or active before.
sub event_again
{
	my ($self) = @_;
	my @ids = sort { $a <=> $b } map { $_->{id} } $self->{reference}->in_state('sealed'), $self->{reference}->in_state('retired')
	  or return;

	$self->activate(one_of(@ids));
	$self->{story}->note_all('activation of an old dataset');
	return;
}

sub clean_up
{
	my ($self) = @_;

	$self->{owner}->run(
		join('', map { "SELECT guest_context.drop_entity(" . quote_value($self->view($_)) . ");\n" } reverse $self->entities)
		  . "DROP SCHEMA $self->{schema} CASCADE;");
	return;
}

1;
