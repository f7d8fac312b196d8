# Compares what the views show with the reference, by many queries and plans.
package Property::Check;

use strict;
use warnings;
use utf8;

use Property::Types qw(stamp one_of chance quote_name quote_value);
use Property::Query;
use Property::Mutants;

# Ways of reading: settings of the session, for one transaction.
my @parallel = (
	'parallel_setup_cost = 0', 'parallel_tuple_cost = 0', 'min_parallel_table_scan_size = 0',
	'min_parallel_index_scan_size = 0', 'max_parallel_workers_per_gather = 2');
# then small tables too are read as a whole, where each page alone costs too little to count
my @whole = (@parallel, 'seq_page_cost = 0', 'random_page_cost = 0', 'cpu_tuple_cost = 0');
our %mode = (
	default => [],
	parallel => \@parallel,
	parallel_whole => \@whole,
	parallel_whole_no_leader => [ @whole, 'parallel_leader_participation = off' ],
	parallel_whole_little_memory => [ @whole, "guest_context.window_memory = '64kB'" ],
	nested_loop => [ 'enable_hashjoin = off', 'enable_mergejoin = off' ],
	merge_join => [ 'enable_hashjoin = off', 'enable_nestloop = off', 'enable_hashagg = off' ],
	no_index => [ 'enable_indexscan = off', 'enable_bitmapscan = off' ],
	index => [ 'enable_seqscan = off', 'enable_bitmapscan = off' ],
	bitmap => [ 'enable_seqscan = off', 'enable_indexscan = off' ],
	no_pruning => ['enable_partition_pruning = off'],
	partitionwise => [ 'enable_partitionwise_join = on', 'enable_partitionwise_aggregate = on' ],
	little_memory => [ "work_mem = '64kB'", "guest_context.window_memory = '64kB'" ],
	little_memory_parallel => [ @parallel, "guest_context.window_memory = '64kB'" ]);

# What every check asks, and how much else.
use constant QUERIES => 10;
use constant MODES => 3;

sub new { my ($class, %arg) = @_; return bless { %arg, prepared => {}, used => {} }, $class }

sub digest { my ($query) = @_; return "SELECT count(*), md5(string_agg(x, E'\\n' ORDER BY x COLLATE \"C\")) FROM ($query) q(x)" }

# A query over the views, or over the tables of what they ought to show.
sub over_views { my ($self, $query) = @_; return $query =~ s/\{(\d)\}/$self->{play}->view($self->{play}{story}{entities}[$1])/ger }
sub over_wanted { my ($self, $query) = @_; return $query =~ s/\{(\d)\}/want$1/gr }

# One check: everything that is asked of one state of the truth.
sub run
{
	my ($self, $last) = @_;
	my ($play, $reader) = ($self->{play}, $self->{play}{reader});
	my @queries;

	for my $entity (grep { !$self->{wanted}{ $_->{n} }++ } $play->entities)
	{
		$reader->run("CREATE TEMP TABLE want$entity->{n} AS SELECT " . Property::Play::columns($entity) . " FROM $play->{schema}.record$entity->{n};");
	}
	$reader->run('BEGIN;');
	my $now = $reader->value('SELECT (extract(epoch FROM now()) * 1000000)::bigint;');
	$self->at_the_edge($now);
	$self->fill_wanted($now);

	my @kinds = sort keys %Property::Query::kind;
	push @queries, map { [ 'all', Property::Query::all($_), 'default' ] } $play->entities;
	for (1 .. QUERIES)
	{
		my $kind = one_of(@kinds);
		my $query = $Property::Query::kind{$kind}->($play) or next;
		push @queries, [ $kind, $query, 'default' ];
	}
	my @modes = grep { $_ ne 'default' } sort keys %mode;
	for (1 .. MODES)
	{
		my $mode = one_of(@modes);
		push @queries, map { [ $_->[0], $_->[1], $mode ] } grep { $_->[0] eq 'all' || chance(35) } grep { $_->[2] eq 'default' } @queries;
		# processes that do not keep step
		push @queries, map { [ 'slow', Property::Query::slow($play, $_), $mode ] } $play->entities if $mode =~ /parallel/;
	}
	$self->compare(@queries);
	$self->note_plans(grep { chance($_->[2] eq 'default' ? 10 : 30) } @queries);
	$self->prepared;
	$self->twins_are_alike;
	$reader->run('COMMIT;');
	$self->as_owner($now, $last);
	return;
}

# Records that expire at this very moment, a microsecond before it and after.
sub at_the_edge
{
	my ($self, $now) = @_;
	my $play = $self->{play};
	my $story = $play->{story};
	my @records;

	for my $entity (grep { defined $_->{expire_after} } $play->entities)
	{
		for my $h (grep { chance(10) } 0 .. $story->{histories} - 1)
		{
			my $k = 20 + $self->{edge_key}++ % 70;
			push @records, {
				entity => $entity, h => $h, k => $k, key => [ Property::Types::key_texts($entity->{key_types}, $h, $k) ],
				val => "$h.edge$k", version => $now - $entity->{expire_after} + one_of(-1, 0, 1), deleted => 0, source => 1,
				partition => 0, offset => 2_000_000_000 + $self->{edge_key}, arrival => $story->{base} - 1, cell => { amount => 1 } };
			$story->note('expires at this moment', $h);
		}
	}
	$play->insert(@records);
	return;
}

sub fill_wanted
{
	my ($self, $now) = @_;
	my $play = $self->{play};
	my $sql = '';

	for my $entity ($play->entities)
	{
		my $n = $entity->{n};
		my @ids = map { $_->{id} } $play->{reference}->truth($entity, $now);
		$sql .= "TRUNCATE ids, want$n;\nCOPY ids FROM STDIN;\n" . join('', map { "$_\n" } @ids) . "\\.\n"
		  . "INSERT INTO want$n SELECT " . Property::Play::columns($entity)
		  . " FROM $play->{schema}.record$n JOIN ids USING (id);\nANALYZE want$n;\n";
	}
	$play->{reader}->run($sql);
	return;
}

# Asks all in one go; the first that differs is an exception with the rows that do.
sub compare
{
	my ($self, @queries) = @_;
	my $reader = $self->{play}{reader};
	my (%wanted, $sql, @got);

	for my $i (0 .. $#queries)
	{
		my ($kind, $query, $mode) = @{ $queries[$i] };
		my @settings = @{ $mode{$mode} };
		$self->{used}{"$kind $mode"}++;
		$sql .= join('', map { "SET LOCAL $_;\n" } @settings)
		  . digest($self->over_views($query)) . ";\n"
		  . join('', map { 'RESET ' . s/ =.*//r . ";\n" } @settings);
		next if defined $wanted{$query};
		$wanted{$query} = keys %wanted;
	}
	$sql .= digest($self->over_wanted($_)) . ";\n" for sort { $wanted{$a} <=> $wanted{$b} } keys %wanted;
	my @lines = split /\n/, $reader->run($sql);
	die "asked " . (@queries + keys %wanted) . " queries, got " . @lines . " answers\n" if @lines != @queries + keys %wanted;
	for my $i (0 .. $#queries)
	{
		my ($kind, $query, $mode) = @{ $queries[$i] };
		$self->{play}{count}++;
		next if $lines[$i] eq $lines[ @queries + $wanted{$query} ];
		$self->differ($kind, $query, $mode);
	}
	return;
}

# Which plans these queries have: those that ought to occur are counted.
sub note_plans
{
	my ($self, @queries) = @_;
	my ($story, $n) = ($self->{play}{story}, 0);
	my $sql = join '', map {
		my ($kind, $query, $mode) = @$_;
		my @settings = @{ $mode{$mode} };
		join('', map { "SET LOCAL $_;\n" } @settings) . 'EXPLAIN (COSTS OFF) ' . digest($self->over_views($query)) . ";\n"
		  . join('', map { 'RESET ' . s/ =.*//r . ";\n" } @settings) . "\\echo end of plan\n"
	} @queries;

	for my $plan (split /end of plan\n/, $self->{play}{reader}->run($sql))
	{
		my $mode = $queries[ $n++ ][2];
		my @found;
		push @found, 'the whole' if $plan =~ /(?<!Parallel )Custom Scan \(TruthScan\)/;
		if ($plan =~ /Parallel Custom Scan \(TruthScan\)/)
		{
			push @found, 'the whole in parallel';
			push @found, 'the whole in parallel, without the leader' if $mode =~ /no_leader/;
			push @found, 'the whole in parallel, without a map' if $mode =~ /little_memory/;
		}
		elsif ($mode =~ /little_memory/ && @found) { push @found, 'the whole, without a map' }
		push @found, map { "Append and $_" } grep { $plan =~ /$_/ } qw(_is_current _is_newest);
		push @found, 'by key, joined' if $plan =~ /Nested Loop(?s:.*)Custom Scan \(KeyScan\)/;
		push @found, 'by key' if $plan =~ /Custom Scan \(KeyScan\)/;
		$story->note_all("plan: $_") for @found;
	}
	return;
}

sub differ
{
	my ($self, $kind, $query, $mode) = @_;
	my $reader = $self->{play}{reader};
	my ($view, $want) = ($self->over_views($query), $self->over_wanted($query));
	my $sql = join('', map { "SET LOCAL $_;\n" } @{ $mode{$mode} })
	  . "CREATE TEMP TABLE got AS SELECT x COLLATE \"C\" AS x FROM ($view) q(x);\n"
	  . "(SELECT 'not expected: ' || x FROM (SELECT x FROM got EXCEPT ALL SELECT x COLLATE \"C\" FROM ($want) w(x)) d ORDER BY 1 LIMIT 5)"
	  . " UNION ALL (SELECT 'missing: ' || x FROM (SELECT x COLLATE \"C\" FROM ($want) w(x) EXCEPT ALL SELECT x FROM got) d ORDER BY 1 LIMIT 5);\n"
	  . "EXPLAIN (COSTS OFF) $view;";
	my $rows = $reader->try($sql);
	die "the view is wrong: query '$kind', settings '$mode'\n" . join('', map { "  SET $_;\n" } @{ $mode{$mode} }) . "  $view\n" . substr($rows, 0, 6000);
}

# Executes the one of them whose plan has the leaves in it, and knows their bounds.
sub by_leaves { my ($n) = @_; return "SET LOCAL enable_seqscan = off;\nEXECUTE leaves$n;\nRESET enable_seqscan;\n" }

# Statements that were prepared at the first check and live through everything.
sub prepared
{
	my ($self) = @_;
	my $play = $self->{play};
	my ($sql, @labels) = ("SET LOCAL plan_cache_mode = force_generic_plan;\n");

	for my $entity ($play->entities)
	{
		my $n = $entity->{n};
		my @types = map { Property::Types::key_type_sql($_, $play->{schema}) =~ s/ COLLATE .*//r } @{ $entity->{key_types} };
		my $all = Property::Query::all($entity);
		my $point = "SELECT e::text FROM {$n} e WHERE "
		  . Property::Query::equal([ Property::Query::columns('e', $entity->{key}) ], [ map { "\$$_" } 1 .. @types ]);
		unless ($self->{prepared}{$n}++)
		{
			$sql .= "PREPARE all$n AS " . digest($self->over_views($all)) . ";\n"
			  . "PREPARE leaves$n AS " . digest($self->over_views($all)) . ";\n"
			  . "PREPARE point$n (" . join(', ', @types) . ') AS ' . digest($self->over_views($point)) . ";\n"
			  . "PREPARE wanted$n (" . join(', ', @types) . ') AS ' . digest($self->over_wanted($point)) . ";\n";
		}
		my $wanted = digest($self->over_wanted($all));
		$sql .= "EXECUTE all$n;\n$wanted;\n" . by_leaves($n) . "$wanted;\n";
		push @labels, "prepared statement for all of entity $n", "one that reads all partitions of entity $n";
		for (1 .. 5)
		{
			my @key = Property::Query::key_literals($play, $entity);
			$sql .= "EXECUTE point$n(" . join(', ', @key) . ");\nEXECUTE wanted$n(" . join(', ', @key) . ");\n";
			push @labels, "prepared statement for the key (@key) of entity $n";
		}
	}
	my @lines = split /\n/, $play->{reader}->run($sql);
	for my $label (@labels)
	{
		my ($got, $want) = splice @lines, 0, 2;
		$play->{count}++;
		die "the $label gave $got instead of $want\n" if $got ne $want;
	}
	return;
}

# The same records in another order, split and repeated otherwise: the same bytes.
sub twins_are_alike
{
	my ($self) = @_;
	my $play = $self->{play};
	my ($twins, $sql) = ($play->{story}{twins}, '');

	for my $entity ($play->entities)
	{
		my $row = join ', ', map { "e." . quote_name($_->{name}) } grep { $_->{role} !~ /key|parent|val$/ } @{ $entity->{columns} };
		$row .= ', ' . join ', ', map { "e." . quote_name($_->{name}) } grep { $_->{name} =~ /^v\d|amount|Group/ } @{ $entity->{columns} };
		my $from = "FROM {$entity->{n}} e WHERE ltrim(split_part(e.val, '.', 1), 't')::int < $twins AND e.val NOT LIKE '%edge%' AND e.val";
		$sql .= digest($self->over_views("SELECT e.val || ROW($row)::text $from NOT LIKE 't%'")) . ";\n"
		  . digest($self->over_views("SELECT substr(e.val, 2) || ROW($row)::text $from LIKE 't%'")) . ";\n";
	}
	my @lines = split /\n/, $play->{reader}->run($sql);
	for my $entity ($play->entities)
	{
		my ($first, $second) = splice @lines, 0, 2;
		$play->{count}++;
		die "permuted and repeated records of entity $entity->{n} give $second instead of $first\n" if $first ne $second;
	}
	return;
}

# What needs the rights of the owner: the portable form, the aggregate, and mutants.
sub as_owner
{
	my ($self, $now, $last) = @_;
	my $play = $self->{play};
	my $at = quote_value(stamp($now)) . '::pg_catalog.timestamptz';
	my ($sql, @labels);

	for my $entity ($play->entities)
	{
		my $view = quote_value($play->view($entity));
		my $n = $entity->{n};
		my $portable = $self->{portable}{$n} //= $play->{owner}->run("SELECT guest_context.truth_sql($view, true);");
		my $all = digest("SELECT e::text FROM (" . $portable =~ s/pg_catalog\.now\(\)/$at/gr . ') e');
		$sql .= "$all;\n";
		push @labels, [ "portable form of entity $n", $n ];
		# rows of type json cannot be compared, which the aggregate does with equal ones
		next if grep { $_->{type} eq 'json' } @{ $entity->{columns} };
		$sql .= digest($self->by_aggregate($entity, $at)) . ";\n";
		push @labels, [ "aggregate over the versions of entity $n", $n ];
	}
	my @lines = split /\n/, $play->{owner}->run($sql);
	my @wanted = split /\n/, $play->{reader}->run(join '', map { digest("SELECT e::text FROM want$_->{n} e") . ";\n" } $play->entities);
	for my $i (0 .. $#labels)
	{
		my ($label, $n) = @{ $labels[$i] };
		$play->{count}++;
		die "the $label gave $lines[$i] instead of $wanted[$n]\n" if $lines[$i] ne $wanted[$n];
	}
	$self->{mutants}->try($play, $self->{portable}, $at, @wanted) if $self->{mutants};
	return;
}

# All of an entity by the aggregate entity_merge over the versions that count.
sub by_aggregate
{
	my ($self, $entity, $at) = @_;
	my $versions = $self->{play}->versions($entity);
	my $version = quote_name($entity->{version});
	my $row = join ', ', map { '(x.m).' . quote_name($_->{name}) } @{ $entity->{columns} };
	my $expiry = defined $entity->{expire_after} ? " AND (x.m).$version >= $at - " . Property::Play::interval($entity->{expire_after}) : '';
	return "SELECT ROW($row)::text FROM (SELECT guest_context.entity_merge(v, v.$version,"
	  . ' ((v.gc_source + 2)::bigint << 50) + (v.gc_partition::bigint << 40) + v.gc_offset) AS m'
	  . " FROM $versions v JOIN guest_context._window w ON w.versions = " . quote_value($versions) . '::regclass'
	  . ' WHERE v.gc_dataset = 0 AND v.gc_arrived_at >= w.window_start OR v.gc_dataset <> 0 AND v.gc_dataset = w.dataset_id'
	  . ' GROUP BY ' . join(', ', map { 'v.' . quote_name($_) } @{ $entity->{key} }) . ") x WHERE NOT (x.m).gc_deleted$expiry";
}

# --- an old snapshot looks on while a dataset is activated ------------------------------

sub begin_watching
{
	my ($self) = @_;
	my $reader = $self->{play}{reader};

	$reader->run("BEGIN ISOLATION LEVEL REPEATABLE READ;\n\\o /dev/null\nSELECT count(*) FROM want0;\n\\o");
	# what expired since the last check is not wanted any more
	my $now = $reader->value('SELECT (extract(epoch FROM now()) * 1000000)::bigint;');
	$self->fill_wanted($now);
	$self->{watched} = [ $self->{play}->entities ];
	return;
}

sub end_watching
{
	my ($self) = @_;
	my ($play, $reader) = ($self->{play}, $self->{play}{reader});
	my $sql = join '', map { my $all = Property::Query::all($_);
		digest($self->over_views($all)) . ";\nEXECUTE all$_->{n};\n" . by_leaves($_->{n}) . digest($self->over_wanted($all)) . ";\n" } @{ $self->{watched} };
	my $out = $reader->try($sql);

	$reader->try('ROLLBACK;');
	$play->{story}->note_all('read with an old snapshot');
	# a plan that does not reach as far says so, and the transaction is to be retried
	if ($out =~ /ERROR: +40001/) { $play->{retries}++; return }
	die "reading with an old snapshot: $out\n" if $out =~ /ERROR/;
	my @lines = split /\n/, $out;
	for my $entity (@{ $self->{watched} })
	{
		my ($plain, $prepared, $leaves, $want) = splice @lines, 0, 4;
		$play->{count} += 3;
		die "entity $entity->{n} with a snapshot from before '$play->{step}' gave $plain, prepared $prepared, by partitions $leaves, instead of $want\n"
		  if $plain ne $want || $prepared ne $want || $leaves ne $want;
	}
	return;
}

1;
